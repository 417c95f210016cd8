"""`python -m sessions` is `warmline`."""

from sessions.cli import main

if __name__ == "__main__":
    main()
