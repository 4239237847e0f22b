"""How configurations are spelled on a command line: their fields as flags, KEY=VALUE words, one-line mistakes.

Parsing only: knows no command and imports no jax.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import difflib
import json
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar, get_type_hints

from hessjax.config import Profile, Search, Sweep

__all__ = [
    "UsageError",
    "config_args",
    "config_fields",
    "key_values",
    "one_line",
    "parse_worker",
    "spell",
    "sweep_words",
    "to_config",
]

Made = TypeVar("Made", Sweep, Search, Profile)
# Fields that the command line spells otherwise: a name, and KEY=VALUE words.
OVERRIDES: dict[str, tuple[Any, Any, str]] = {
    "landscape": (str, "digits-mlp", "a name of `hessjax list`, or package.module:factory."),
    "options": (tuple[str, ...], (), "KEY=VALUE words for the landscape, e.g. widths=8,8 activation=relu."),
    "optimizer_options": (tuple[str, ...], (), "KEY=VALUE words for the optimiser, e.g. momentum=0.9."),
}


def config_fields(config: type[Sweep] | type[Search] | type[Profile], **defaults: Any) -> list[tuple[str, Any, Any]]:
    """A configuration's fields as command-line ones, so that every choice is a flag and none is written twice."""
    hints, found = get_type_hints(config), []
    for f in dataclasses.fields(config):
        kind, default, _ = OVERRIDES.get(f.name, (hints[f.name], f.default, None))
        default = f.default if f.name == "landscape" else default
        found.append((f.name, kind, dataclasses.field(default=defaults.get(f.name, default))))
    return found


def to_config(config: type[Made], flags: Any) -> Made:
    """The configuration that flags spell."""
    given = {f.name: getattr(flags, f.name) for f in dataclasses.fields(config)}
    for name in {"options", "optimizer_options"} & given.keys():
        given[name] = key_values(name, given[name])
    return config(**given)


def key_values(name: str, words: Sequence[str]) -> dict[str, Any]:
    """Options that KEY=VALUE words spell, for the flag of that name.

    Example:
      >>> key_values("options", ["widths=8,8", "loss=squared", "bias=false"])
      {'widths': (8, 8), 'loss': 'squared', 'bias': False}
    """
    found = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not equals or not key:
            raise ValueError(f"--{name.replace('_', '-')} takes KEY=VALUE words such as widths=8,8; got {word!r}.")
        found[key.replace("-", "_")] = _value(text)
    return found


def _value(text: str) -> Any:
    """A number, true, false, none, a comma-separated tuple of those, a list in JSON, or the word itself."""
    words = {"none": None, "true": True, "false": False}
    if text.lower() in words:
        return words[text.lower()]
    if text[:1] in ("[", "{", '"'):
        with contextlib.suppress(json.JSONDecodeError):
            return json.loads(text)
    if "," in text:
        return tuple(_value(part) for part in text.split(",") if part)
    try:
        number = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
    return number if isinstance(number, int | float) else text


def parse_worker(text: str | None) -> tuple[int, int]:
    """I/N; by default the place in a Slurm array or a Kubernetes indexed job, else the only worker."""
    if text is None:
        env = os.environ
        if "SLURM_ARRAY_TASK_ID" in env and "SLURM_ARRAY_TASK_COUNT" in env:
            count = _whole(env, "SLURM_ARRAY_TASK_COUNT", least=1)
            first, step = _whole(env, "SLURM_ARRAY_TASK_MIN", 0), _whole(env, "SLURM_ARRAY_TASK_STEP", 1, least=1)
            # Tasks that are run again need not be evenly spaced: any share will do, as units are taken by lease.
            text = f"{(_whole(env, 'SLURM_ARRAY_TASK_ID') - first) // step % count}/{count}"
        elif "JOB_COMPLETION_INDEX" in env and "JOB_COMPLETIONS" in env:
            text = f"{env['JOB_COMPLETION_INDEX']}/{env['JOB_COMPLETIONS']}"
        else:
            return 0, 1
    index, slash, count = text.partition("/")
    if not (slash and index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        raise ValueError(f"--worker takes I/N with 0 <= I < N, such as 0/4; got {text!r}.")
    return int(index), int(count)


def _whole(env: Mapping[str, str], name: str, default: int | None = None, least: int = 0) -> int:
    text = env.get(name, str(default))
    if not text.isdecimal() or int(text) < least:
        raise ValueError(
            f"the environment variable {name} is {text!r}, wanted a whole number from {least}; or give --worker."
        )
    return int(text)


def config_args(config: type[Sweep] | type[Search] | type[Profile]) -> str:
    """The "Args:" lines of a configuration, in the command line's words."""
    text = (config.__doc__ or "").split("Args:")[1].split("Raises:")[0]
    lines = [line.removeprefix("    ") for line in text.strip("\n").splitlines()]
    for name, (_, _, words) in OVERRIDES.items():
        lines = [f"  {name}: {words}" if line.startswith(f"  {name}:") else line for line in lines]
    return "\n".join(lines).rstrip()


def sweep_words(config: Sweep) -> dict[str, Any]:
    """The values of the flags that spell `config`; the inverse of `to_config`."""
    found = config.to_dict()
    for name in ("options", "optimizer_options"):
        found[name] = tuple(f"{key}={spell(value)}" for key, value in found[name].items())
    found["times"] = tuple(found["times"]) if isinstance(found["times"], list) else found["times"]
    return found


def spell(value: Any) -> str:
    """A value as `KEY=VALUE` words take it: 8,8 for a sequence, JSON for what reads as something else.

    Example:
      >>> spell((8, 8)), spell(()), spell("8")
      ('8,8', '[]', '"8"')
    """
    value = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(value, tuple | list):
        text = ",".join(map(str, value)) + ("," if len(value) == 1 else "")
        return text if _value(text) == tuple(value) else json.dumps(value, default=str)
    text = str(value)
    return text if (_value(text), type(_value(text))) == (value, type(value)) else json.dumps(value, default=str)


class UsageError(Exception):
    """A command line that cannot be parsed; the message is the line to print."""


def one_line(box: str) -> str:
    """The first paragraph of tyro's box, and the near match where it names one.

    The box is drawn in lines or, where the output is not plain "utf-8", in dashes: a title, then paragraphs
    between rules.
    """
    lines = [text for line in box.splitlines() if (text := line.strip("│╭╮╰╯ "))]
    rules = [i for i, line in enumerate(lines) if re.fullmatch("[-─]{4,}", line)]
    first = 2 if 1 in rules else 1
    text = " ".join(lines[first : next((i for i in rules if i > first), len(lines))]).rstrip(".") or box.strip()
    meant = [lines[i + 1].split()[0] for i, line in enumerate(lines[:-1]) if line.startswith("Perhaps you meant")]
    known = _known_commands(lines, rules)
    applied = re.search(r"(--\S+) \(applied to hessjax ([\w-]+)\)", text)
    if applied:  # tyro's own words speak of the order of options, which matters to no command here
        text = f"{applied[2]} has no option {applied[1]}"
        elsewhere = [found[1] for line in lines if (found := re.match(r"in hessjax ([\w-]+) --help", line))]
        if meant[:1] == [applied[1]] and elsewhere:
            return f"{text}; {elsewhere[0]} has."
    if known:
        near = difflib.get_close_matches(text.split()[-1], known, 1)
        return text + (f"; did you mean {near[0]}?" if near else f". There are {', '.join(known)}.")
    return text + (f"; did you mean {meant[0]}?" if meant else ".")


def _known_commands(lines: list[str], rules: list[int]) -> list[str]:
    """The commands that a box names, over as many lines as they take."""
    at = next((i for i, line in enumerate(lines) if line.startswith("Available subcommands")), None)
    if at is None:
        return []
    said = " ".join(lines[at : next((i for i in rules if i > at), len(lines))])
    return [word for part in said.partition(":")[2].split(",") if (word := part.strip())]
