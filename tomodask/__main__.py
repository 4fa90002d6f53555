"""``python -m tomodask`` is ``tomodask``."""

from tomodask.cli import main

if __name__ == "__main__":
    main()
