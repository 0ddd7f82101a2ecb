"""`python dev COMMAND`: sets up what is missing under `.dev`, then runs the command there; see COMMANDS.

Needs nothing but Python and pip. Until the version check has passed, this file keeps to syntax that older
Pythons can read, so that they get a sentence and not a traceback.
"""

import argparse
import importlib
import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
COMMANDS = {
    "demo": "run the demonstration on the embedded model, in a real ComfyUI",
    "test": "run the tests against a real ComfyUI",
    "serve": "start ComfyUI with the pack, to use in a browser",
    "bench": "measure the embedded model, its judges, and the method on it",
    "gpu": "measure all that only a GPU can tell, in ten minutes; or pack what a machine without a network needs",
    "sweep": "draw a list of prompts by LoRAs and modes; goes on where it was stopped",
    "evaluate": "measure pictures that are there: accuracies, CLIP score, nudity, FID",
    "workflows": "open each workflow that ships in a browser, run it, and make its pictures",
    "locales": "write the nodes' English texts, and list translations that do not fit them",
    "archive": "build what the Comfy registry gets, and try it in an empty ComfyUI",
    "architecture": "draw the picture in docs/architecture.md from the imports in the code",
    "recipe": "remake the embedded model and the judges from icon sets and a sentence model",
}
NAME = "python dev"


def fail(sentence):
    """Write the error and end with exit code 2."""
    sys.stderr.write("error: " + sentence + "\n")
    sys.exit(2)


def check_python():
    """Refuse a Python for which the pinned packages have no wheels."""
    bits = 64 if sys.maxsize > 2**32 else 32
    major, minor = sys.version_info[:2]
    if bits == 32 or not (3, 10) <= (major, minor) <= (3, 13):
        fail(
            f"this is Python {major}.{minor} ({bits} bit), but the pack is developed with 64-bit Python 3.10 "
            "to 3.13: run the command with one of those, as in `python3.12 dev test`."
        )


def parse(arguments):
    """The command's module and its options; `options.extra` are arguments for the program that it starts."""
    listing = "\n".join(f"  {name:12} {text}" for name, text in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog=NAME,
        description="Work on the UnGuide node pack.\n\ncommands:\n" + listing,
        epilog=f"The first run sets up `.dev`: some minutes. `{NAME} COMMAND --help` explains a command.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=list(COMMANDS), metavar="command", help="one of: " + ", ".join(COMMANDS))
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="...", help="options of the command")
    outer = parser.parse_args(arguments)
    module = importlib.import_module("dev." + outer.command)

    extra_to = getattr(module, "EXTRA", None)
    title = COMMANDS[outer.command]
    parser = argparse.ArgumentParser(
        prog=NAME + " " + outer.command,
        description=title[0].upper() + title[1:] + ".",
        epilog=f"Other arguments, and all after `--`, go to {extra_to}." if extra_to else None,
        allow_abbrev=False,
    )
    parser.add_argument("--host", metavar="WHICH", help="ComfyUI to use: newest (the default), oldest, or a folder")
    parser.add_argument("--torch", metavar="VERSION", help="use this torch instead of the pinned one (5 GB each)")
    module.add_arguments(parser)
    cut = outer.arguments.index("--") if "--" in outer.arguments else len(outer.arguments)
    options, unknown = parser.parse_known_args(outer.arguments[:cut])
    options.extra = unknown + outer.arguments[cut + 1 :]
    if options.extra and not extra_to:
        parser.error("unrecognized arguments: " + " ".join(options.extra))
    return module, options


def main(arguments):
    """Run one command; returns the exit code."""
    check_python()
    sys.path[0] = os.path.dirname(HERE)  # modules are `dev.x`: a plain `server` would hide the host's
    from dev import console, environment, hosts

    module, options = parse(arguments)
    try:
        if getattr(module, "stands_alone", lambda options: False)(options):
            return module.run(options)
        try:
            venv = environment.venv_with(options.torch)
            host = hosts.chosen(options.host)
            environment.prepare(venv, host, getattr(module, "NEEDS", ()))
            options.host = host.folder
        except OSError as error:
            raise console.DevError(environment.explain_os_error(error)) from error
        if not venv.inside():
            return console.become([str(venv.python), HERE, *arguments])
        return module.run(options)
    except console.DevError as error:
        fail(str(error))
    except KeyboardInterrupt:
        sys.stderr.write("\nstopped\n")
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
