"""`python -m justrl`: the command where the package is not installed."""

from justrl.commands.main import console

if __name__ == "__main__":
    console()
