"""Reading along: what happens in a turn, told to whoever follows it, in this process or in another one."""
