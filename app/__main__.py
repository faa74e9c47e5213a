"""python -m app: serve with the settings of the environment; with anything behind it, the same as `wardrobe`."""

import sys


def main() -> None:
    # Each side is imported only where it is needed: a service has no use for a command line.
    if len(sys.argv) == 1:
        from app.serve import serve

        serve()
    else:
        from app.cli.commands import main as command_line

        command_line()


if __name__ == "__main__":
    main()
