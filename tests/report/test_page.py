from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tinydet.errors import InputError
from tinydet.report.page import page_html, write_page, write_report
from tinydet.report.summary import Asked, RunSummary, VariantSummary, write_summary


class _Tags(HTMLParser):
    """Every element's name and attributes, checking that what opens also closes."""

    VOID = ("meta", "input", "br", "link")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open
        assert self.open.pop() == tag


def _tags(path: Path) -> list[tuple[str, dict[str, str | None]]]:
    parser = _Tags()
    parser.feed(path.read_text(encoding="utf-8"))
    assert parser.open == []
    return parser.seen


def test_the_page_is_whole_and_loads_nothing(run_folder: Path) -> None:
    tags = _tags(write_report(run_folder))
    assert sum(tag == "script" for tag, _ in tags) == 1  # our own; the hostile names made none
    for tag, attributes in tags:
        assert tag not in ("link", "iframe", "object", "embed", "img", "base")
        assert not any(name.startswith("on") for name in attributes)
        for name in ("src", "href", "xlink:href"):
            value = attributes.get(name)
            assert value is None or value.startswith(("#", "data:image/jpeg;base64,")), (tag, value)
    policy = next(a["content"] for t, a in tags if t == "meta" and a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert "default-src 'none'" in policy


def test_every_link_and_picture_has_its_target(run_folder: Path) -> None:
    for page in (write_report(run_folder), write_page([run_folder, run_folder], run_folder / "two.html")):
        tags = _tags(page)
        ids = [a["id"] for _, a in tags if "id" in a]
        assert len(set(ids)) == len(ids)
        for _, attributes in tags:
            target = attributes.get("href") or ""
            assert not target.startswith("#") or target[1:] in ids


def test_all_parts_are_there(run_folder: Path) -> None:
    html = write_report(run_folder).read_text(encoding="utf-8")
    for text in (
        "45.0 ± 7.1", "72.9", "ms, paper", "104", "11.8 M", "231 kB", "Precision and recall", "Detection class",
        "Mimic, share of all losses", "Mismatch", "AP50 against sparsity", "Ground truth", "Wei et al. 2018",
        "tinydet run x", "a machine",
    ):  # fmt: skip
        assert text in html, text
    assert html.count('class="line"') >= 4


def test_a_tally_counts_what_shows_at_first(run_folder: Path) -> None:
    html = write_report(run_folder).read_text(encoding="utf-8")
    assert "1 of 1 found" in html
    assert len(re.findall(r'<g class="right" data-score', html)) == 1
    assert len(re.findall(r'<g class="wrong" data-score', html)) == 1


def test_a_run_in_which_nothing_was_measured_still_has_a_page(tmp_path: Path) -> None:
    asked = Asked("digits", "test", (), "1", "tinydet demo", "a machine", {}, "2025-01-01", 0.0)
    empty = RunSummary("digits", "Digits", asked, "VOC", ("mAP",), (VariantSummary("a", "A"),))
    write_summary(empty, tmp_path)
    html = write_report(tmp_path).read_text(encoding="utf-8")
    assert "Digits" in html
    assert "Losses" not in html
    assert page_html([(tmp_path, RunSummary("d", "D", asked, "VOC", ("mAP",), ()), None)])


def test_a_loss_log_that_cannot_be_read_is_said_on_the_page(run_folder: Path) -> None:
    (run_folder / "qm" / "1.jsonl").unlink()
    assert "cannot be read" in write_report(run_folder).read_text(encoding="utf-8")


def test_several_runs_say_in_what_they_differ(run_folder: Path, summary: RunSummary, tmp_path: Path) -> None:
    other = tmp_path / "other"
    write_summary(replace(summary, asked=replace(summary.asked, data="another set")), other)
    html = write_page([run_folder, other], tmp_path / "two.html").read_text(encoding="utf-8")
    assert "The runs differ" in html
    assert "another set" in html
    assert "The runs differ" not in write_page([run_folder, run_folder], tmp_path / "x.html").read_text(
        encoding="utf-8"
    )


def test_no_run(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        write_report(tmp_path)
