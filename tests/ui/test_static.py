"""The scripts and styles as files: no string becomes markup but in one place, nothing from afar."""

import re
from importlib import resources

import pytest

STATIC = resources.files("labeling_ui") / "static"
FILES = sorted(entry.name for entry in STATIC.iterdir())
SCRIPTS = [name for name in FILES if name.endswith(".js")]
FORBIDDEN = (
    "outerHTML",
    "insertAdjacent",
    "document.write",
    "eval(",
    "new Function",
    "srcdoc",
    "DOMParser",
    "createContextual",
    "setHTML",
)


def read(name):
    return (STATIC / name).read_text("utf-8")


def test_there_is_one_way_from_a_string_to_markup():
    assert {
        name: read(name).count("innerHTML") for name in SCRIPTS if "innerHTML" in read(name)
    } == {"text.js": 1}
    assert "node.innerHTML = html;" in read("text.js")


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_are_short_and_make_no_code_or_markup_of_strings(name):
    script = read(name)
    assert [word for word in FORBIDDEN if word in script] == []
    assert script.count("\n") <= 250
    assert script.startswith("//"), "says what it is for"


@pytest.mark.parametrize("name", FILES)
def test_nothing_comes_from_another_host(name):
    content = read(name)
    assert "@import" not in content
    assert "url(" not in content
    addresses = re.findall(r"(?:https?:)?//[a-z0-9-]+(?:\.[a-z0-9-]+)+", content)
    assert [one for one in addresses if "www.w3.org" not in one] == []


def test_scripts_import_only_what_is_exported():
    exported = {
        name: set(re.findall(r"export (?:async )?(?:function|class|const|let) (\w+)", read(name)))
        for name in SCRIPTS
    }
    imports = {
        (name, source, wanted.split(" as ")[0].strip())
        for name in SCRIPTS
        for names, source in re.findall(r"import \{([^}]*)\} from '\./([\w.]+)'", read(name))
        for wanted in names.split(",")
    }
    assert len(imports) > 50
    assert [one for one in sorted(imports) if one[2] not in exported[one[1]]] == []
