"""What the pages promise exists, and what exists is on the pages."""

from __future__ import annotations

import argparse
import re
import shlex

import pytest

from secondlook.main import build_parser
from secondlook.shared.conditions import NAMES
from tests.reference import PAGES, ROOT, commands

GENERATED = {path.relative_to(ROOT).as_posix() for path in PAGES}
DOCS = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").glob("**/*.md"))
TEXTS = ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", *(name for name in DOCS if name not in GENERATED))
# Their commands can be given as they stand.
OPERATORS = (
    "deploy/README.md",
    "docs/first-camera.md",
    "docs/operations.md",
    "docs/own-cameras.md",
    "docs/roles.md",
    "docs/troubleshooting.md",
)


def shell_lines(name: str) -> list[str]:
    """Lines of the fenced `sh` blocks of a page."""
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / name).read_text(), re.DOTALL)
    return [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]


def called(words: str) -> str:
    """The command at the beginning of a line without its first word, sub-commands included; empty for none."""
    found = ""
    for word in words.split():
        if f"{found} {word}".strip() not in commands():
            break
        found = f"{found} {word}".strip()
    return found


def make_verbs() -> dict[str, str]:
    """Every documented target of the Makefile, with its comment."""
    return dict(re.findall(r"^([a-z]+):.*## (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE))


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_reference_page_is_current(path):
    assert path.read_text() == PAGES[path](), "run `make docs`"


@pytest.mark.parametrize("name", TEXTS)
def test_commands_in_texts_exist(name):
    text = (ROOT / name).read_text()
    known = {command.split()[0] for command in commands()}
    shown = re.findall(r"`secondlook ([a-z-]+)", text)
    shown += [match[1] for line in shell_lines(name) if (match := re.search(r"\bsecondlook ([a-z-]+)", line))]
    assert set(shown) <= known


@pytest.mark.parametrize("name", TEXTS)
def test_flags_in_texts_exist(name):
    for line in shell_lines(name):
        for words in re.findall(r"\b(?:secondlook|make) ([^|;&#]+)", line):
            command = called(words)
            if command:
                known = {
                    option for action in commands()[command]._actions for option in action.option_strings
                }
                assert set(re.findall(r"(?<!\S)(--[a-z-]+)", words)) <= known, line


@pytest.mark.parametrize("name", TEXTS)
def test_make_verbs_in_texts_exist(name):
    text = (ROOT / name).read_text()
    shown = re.findall(r"`make ([a-z]+)", text)
    shown += [match[1] for line in shell_lines(name) if (match := re.match(r"make ([a-z]+)", line))]
    assert set(shown) <= set(make_verbs())


def test_every_target_of_the_makefile_is_documented():
    phony = re.search(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(phony[1].split()) == set(make_verbs())


@pytest.mark.parametrize("name", sorted({*TEXTS, *DOCS, *OPERATORS, "CHANGELOG.md"}))
def test_links_lead_somewhere(name):
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", (ROOT / name).read_text()):
        assert (ROOT / name).parent.joinpath(target).exists(), target


@pytest.mark.parametrize("name", OPERATORS)
def test_commands_of_the_operators_pages_can_be_given_as_they_are(name):
    given = [line.partition("#")[0].strip() for line in shell_lines(name) if line.startswith("secondlook ")]
    assert given
    for line in given:
        build_parser().parse_args(shlex.split(line)[1:])


def test_every_condition_has_a_paragraph():
    page = (ROOT / "docs" / "troubleshooting.md").read_text()
    told = re.findall(r"^### ([a-z]+-[a-z]+)$", page, re.MULTILINE)
    assert sorted(told) == sorted(NAMES)


def test_every_command_tells_what_it_does():
    for name, parser in commands().items():
        assert parser.description, name
        for action in parser._actions:
            assert action.help or isinstance(action, argparse._SubParsersAction), (name, action.dest)


def test_the_security_page_names_tests_that_exist():
    """Its promises are as good as the tests behind them."""
    page = (ROOT / "docs" / "security.md").read_text()
    files = {path.name: path.read_text() for path in (ROOT / "tests").rglob("test_*.py")}
    named_files = set(re.findall(r"(test_\w+\.py)", page))
    named_tests = set(re.findall(r"::(test_\w+)", page))
    assert named_files <= set(files)
    missing = {name for name in named_tests if not any(f"def {name}(" in text for text in files.values())}
    assert len(named_tests) > 20 and not missing
