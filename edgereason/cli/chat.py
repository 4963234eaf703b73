"""`edgereason chat`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgereason.cli.parameters.common_options import Calculator, Engine, Seed, SpecialTokens, Temperature, Threads

if TYPE_CHECKING:
    from rich.console import Console

    from edgereason.pipeline.conversation import Conversation

HELP = """\
Type a question and press Enter; a line that ends with \\ continues on the next one.
  /guidance on|off   write guidance before each answer, or not
  /new               start a new conversation
  /save FILE         save the conversation as JSON
  /stats             tokens and speed of the last answer
  /help              show this help
  /quit              leave (or Ctrl-D)
Ctrl-C stops an answer."""


def chat(
    bundle: Annotated[
        Path | None,
        typer.Argument(help="The bundle to chat with [default: the bundle inside the package]."),
    ] = None,
    engine: Engine = "auto",
    guidance: Annotated[
        bool, typer.Option("--guidance/--no-guidance", help="Write guidance before each answer.")
    ] = True,
    max_tokens: Annotated[int | None, typer.Option(help="Maximum new tokens per stage.")] = None,
    temperature: Temperature = None,
    seed: Seed = None,
    calculator: Calculator = None,
    special_tokens: SpecialTokens = False,
    threads: Threads = None,
) -> None:
    """Ask questions interactively; /help lists the commands."""
    from edgereason.pipeline.conversation import Conversation
    from edgereason.pipeline.reasoner import load
    from edgereason.progress.consoles import plain_console

    options = {
        "guidance": guidance,
        "max_new_tokens": max_tokens,
        "temperature": temperature,
        "seed": seed,
        "calculator": calculator,
        "special_tokens": special_tokens,
    }
    with load(bundle, engine, threads) as reasoner:
        session = _Session(Conversation(reasoner), plain_console(soft_wrap=True), options)
        session.run()


class _Session:
    """What the program does between its start and its end."""

    def __init__(self, conversation: Conversation, console: Console, options: dict[str, Any]) -> None:
        self._conversation = conversation
        self._console = console
        self._options = options
        self._interactive = sys.stdin.isatty()

    def run(self) -> None:
        if self._interactive:
            self._say("Ask a question, or type /help for the commands.")
            if not self._conversation.remembers:
                self._say("This model was trained on single questions: it does not see earlier turns.")
        while (text := self._read()) is not None:
            if text in ("/quit", "/exit"):
                return
            if text.startswith("/"):
                self._command(text)
            elif text:
                self._ask(text)

    def _read(self) -> str | None:
        """The next question or command, lines that end with a backslash joined; None at the end of the input."""
        lines: list[str] = []
        while True:
            try:
                line = input(("... " if lines else "> ") if self._interactive else "")
            except EOFError:
                return "\n".join(lines) if lines else None
            except KeyboardInterrupt:
                self._say("\nType /quit or Ctrl-D to leave.")
                lines = []
                continue
            lines.append(line.removesuffix("\\"))
            if not line.endswith("\\"):
                return "\n".join(lines).strip()

    def _ask(self, question: str) -> None:
        from edgereason.cli.display.answers import show_events
        from edgereason.errors import UsageError

        events = self._conversation.stream(question, **self._options)
        left_out = self._conversation.left_out
        try:
            show_events(events, self._console)
        except KeyboardInterrupt:
            self._say("\nstopped.")
        except UsageError as error:
            self._say(f"error: {error}")
        finally:
            events.close()  # type: ignore[attr-defined]
        if self._conversation.left_out > left_out:
            self._say(f"The context is full: the model no longer sees the first {self._conversation.left_out} turns.")

    def _command(self, text: str) -> None:
        name, _, argument = text.partition(" ")
        commands = {"/guidance": self._guidance, "/save": self._save}
        if name in commands:
            commands[name](argument.strip())
        elif name == "/new":
            self._conversation.clear()
            self._say("new conversation.")
        elif name == "/stats":
            self._stats()
        elif name == "/help":
            self._say(HELP)
        else:
            self._say(f"There is no {name}. /help lists the commands.")

    def _guidance(self, choice: str) -> None:
        if choice not in ("on", "off"):
            self._say("Type /guidance on or /guidance off.")
            return
        self._options["guidance"] = choice == "on"
        self._say(f"guidance is {choice}.")

    def _save(self, name: str) -> None:
        from edgereason.files import new_file

        if not name:
            self._say("Type /save and the name of a file.")
            return
        path = Path(name).expanduser()
        try:
            with new_file(path) as partial:
                turns = json.dumps(self._conversation.to_json(), indent=2, ensure_ascii=False)
                partial.write_text(turns + "\n", encoding="utf-8")
        except OSError as error:
            self._say(f"{path} cannot be written: {error.strerror}.")
        else:
            self._say(f"{len(self._conversation.results)} turns saved to {path}.")

    def _stats(self) -> None:
        from edgereason.cli.display.answers import timing_line

        if not self._conversation.results:
            self._say("Nothing has been answered yet.")
            return
        self._say(timing_line(self._conversation.results[-1]))
        tokens = sum(
            stage.new_tokens
            for result in self._conversation.results
            for stage in (result.timings.guidance, result.timings.answer)
        )
        self._say(f"{len(self._conversation.results)} turns, {tokens} tokens written")

    def _say(self, text: str) -> None:
        self._console.print(text, style="dim", markup=False)
