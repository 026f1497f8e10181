"""Translates Sphinx's marks in docstrings into Markdown for the reference pages."""

import re
from collections.abc import Iterator
from typing import Any

from griffe import Extension, Module, NameResolutionError, Object
from latex2mathml.converter import convert

_ROLE = re.compile(r":(?:class|func|meth|mod|data|attr):`(~?)([\w.]+)`")
_FORMULA = re.compile(r":math:`([^`]+)`")
_DISPLAY = re.compile(r"^([ \t]*)\.\. math::(.*(?:\n\1[ \t]+\S.*)*)", re.MULTILINE)
_DOCTEST = re.compile(r"^>>> .*(?:\n\S.*)*", re.MULTILINE)


class Sphinx(Extension):
    """Translates roles into links, formulas into MathML (which needs no script) and doctests into blocks."""

    def on_package(self, *, pkg: Module, **_: Any) -> None:
        """Translate the docstrings of all objects of a package once it is loaded."""
        objects = list(_within(pkg))
        self.package = pkg.path
        self.places = {thing.name: thing.path for thing in objects if thing.is_class or thing.is_function}
        for thing in objects:
            if thing.docstring is not None:
                thing.docstring.value = self._markdown(thing.docstring.value, thing)

    def _markdown(self, text: str, thing: Object) -> str:
        text = _DISPLAY.sub(lambda m: f"\n{m[1]}<div class='formula'>{_display(m[2])}</div>\n", text)
        text = _FORMULA.sub(lambda m: convert(m[1]), text)
        text = _DOCTEST.sub(lambda m: f"```pycon\n{m[0]}\n```", text)
        return _ROLE.sub(lambda m: self._link(m[2], bool(m[1]), thing), text)

    def _link(self, target: str, short: bool, thing: Object) -> str:
        first, _, last = target.partition(".")
        text = target.rpartition(".")[2] if short else target
        if not target.startswith(self.package):
            try:
                thing.resolve(first)
            except NameResolutionError:  # a name that the file does not import
                target = target.replace(first, self.places.get(first, ""), 1)
        # pages of other packages are elsewhere, and private names have no page
        known = not target.startswith(("torch.", ".")) and not (last or first).startswith("_")
        return f"[`{text}`][{target}]" if known else f"`{text}`"


def _display(formula: str) -> str:
    return convert(" ".join(formula.split()), display="block")


def _within(thing: Object) -> Iterator[Object]:
    yield thing
    for member in thing.members.values():
        if isinstance(member, Object):  # an alias shares the docstring of its target
            yield from _within(member)
