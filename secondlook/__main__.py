"""`python -m secondlook` is the command `secondlook`."""

import sys

from secondlook.main import main

if __name__ == "__main__":
    sys.exit(main())
