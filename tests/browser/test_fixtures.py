"""What the fixtures of this folder notice."""

import find_chromium
import pytest


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("console.error('gone wrong')", "gone wrong"),
        ("throw new Error('thrown')", "thrown"),
        ("Promise.reject(new Error('promised'))", "promised"),
        ("fetch('https://example.org/').catch(() => 0)", "asked another host: https://example.org/"),
        ("document.body.append(Object.assign(new Image(), {src: 'missing.png'}))", "ERR_FILE_NOT_FOUND"),
    ],
)
def test_a_page_with_an_error_fails_the_test_unless_it_is_allowed(script, said, page, console, tmp_path):
    (tmp_path / "page.html").write_text(f"<body><script>{script}</script>", encoding="utf-8")
    page.goto((tmp_path / "page.html").as_uri())
    page.wait_for_load_state("networkidle")
    assert said in console.unexpected()[0]
    console.allow(r"gone wrong|thrown|promised|example\.org|ERR_")
    assert console.unexpected() == []


def test_a_quiet_page_passes(page, console):
    page.set_content("<h1>quiet</h1><script>console.log('fine')</script>")
    assert console.unexpected() == []
    assert console.lines == ["log: fine"]


def test_chromium_is_the_one_that_is_named(tmp_path, monkeypatch):
    program = tmp_path / "mine"
    program.touch(mode=0o755)
    monkeypatch.setenv("CHROMIUM", str(program))
    assert find_chromium.find() == str(program)


def test_without_chromium_one_sentence_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setenv("CHROMIUM", str(tmp_path / "missing"))
    assert find_chromium.main() == find_chromium.MISSING
    monkeypatch.delenv("CHROMIUM")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_chromium.main() == find_chromium.MISSING
