"""Variables in a docker-compose file, for the members that are judged before Compose sees them.

The forms: `$NAME`, `${NAME}`, and with a default, a demand or a replacement `${NAME:-x}`, `${NAME-x}`, `${NAME:?x}`,
`${NAME?x}`, `${NAME:+x}`, `${NAME+x}`, in which `x` may hold variables again; `$$` is a dollar sign.
"""

from collections.abc import Mapping

LEVELS = 8  # of variables within defaults


class InterpolationError(ValueError):
    """Says what is wrong without a variable's value."""


def interpolate(text: str, environment: Mapping[str, str], *, level: int = 0) -> str:
    """`text` with its variables. Raises `InterpolationError`."""
    if level > LEVELS:
        raise InterpolationError("defaults within defaults too deep")
    made, at = [], 0
    while (dollar := text.find("$", at)) >= 0:
        made.append(text[at:dollar])
        after = text[dollar + 1 : dollar + 2]
        if after == "$":
            made.append("$")
            at = dollar + 2
        elif after == "{":
            at = _closing(text, dollar + 2)
            made.append(_braced(text[dollar + 2 : at - 1], environment, level))
        else:
            name = _name(text[dollar + 1 :])
            if not name:
                raise InterpolationError("a `$` that begins no variable; write `$$` for the sign")
            made.append(environment.get(name, ""))
            at = dollar + 1 + len(name)
    return "".join(made) + text[at:]


def escaped(text: str) -> str:
    """`text` so that Compose leaves it as it is."""
    return text.replace("$", "$$")


def _name(text: str) -> str:
    length = 0
    while length < len(text) and text[length].isascii() and (text[length].isalnum() or text[length] == "_"):
        length += 1
    return "" if text[:1].isdecimal() else text[:length]


def _closing(text: str, at: int) -> int:
    """The place after the brace that closes the one before `at`."""
    depth = 1
    while at < len(text):
        if text.startswith("${", at):
            depth += 1
        elif text[at] == "}":
            depth -= 1
            if depth == 0:
                return at + 1
        at += 1
    raise InterpolationError("a `${` without its `}`")


def _braced(inside: str, environment: Mapping[str, str], level: int) -> str:
    name = _name(inside)
    rest = inside[len(name) :]
    colon = rest.startswith(":")
    operator, word = rest[colon : colon + 1], rest[colon + 1 :]
    if not name or (rest and operator not in {"-", "?", "+"}):
        raise InterpolationError("a variable of another form than those of Compose")
    value = environment.get(name, "")
    given = bool(value) if colon else name in environment
    if operator == "?" and not given:
        raise InterpolationError(f"variable {name} that is demanded and not given")
    if operator == "+":
        return interpolate(word, environment, level=level + 1) if given else ""
    return interpolate(word, environment, level=level + 1) if operator == "-" and not given else value
