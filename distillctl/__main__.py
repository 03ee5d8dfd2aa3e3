"""`python -m distillctl`."""

from distillctl.cli.app import main

if __name__ == "__main__":
    main()
