"""`warmline demo`: four acts, and the bill."""
