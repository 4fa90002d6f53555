"""What a user in a notebook sees of a refinement: a figure while it works, a table at its end."""

import base64
import html.parser
import sys
import types

import pandas as pd
import pytest

from tomodask.project.refinement import view as refinement_view
from tomodask.project.refinement.refining import Refinement
from tomodask.project.refinement.view import watch_refinement

NAN = float("nan")


def row(iteration, resolution, **others):
    return {
        "iteration": iteration, "phase": "one", "resolution_143": resolution,
        "resolution_5": resolution + 6, "band": 60.0, "angular_step": 20.0, "local": None,
        "turned": NAN if iteration == 1 else 1.5, "moved": NAN if iteration == 1 else 2.0,
        "reassigned": NAN, "score": 0.5, "classes": 1, "seconds": 3.0, **others,
    }  # fmt: skip


@pytest.fixture
def notebook(monkeypatch):
    """A notebook's kernel as tomodask sees it: what it displays, in its order."""
    shown = []

    def display(picture, *, display_id):
        assert display_id
        shown.append(("display", picture))
        return types.SimpleNamespace(update=lambda one: shown.append(("update", one)))

    fake = types.SimpleNamespace(
        version_info=(9, 0),  # matplotlib asks
        display=types.SimpleNamespace(display=display, Image=lambda data, alt: (data, alt)),
        get_ipython=lambda: type("ZMQInteractiveShell", (), {})(),
    )
    monkeypatch.setitem(sys.modules, "IPython", fake)
    monkeypatch.setitem(sys.modules, "IPython.display", fake.display)
    return shown


class Page(html.parser.HTMLParser):
    """Cells and pictures of a piece of a page; refuses tags that are not closed in order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.cells, self.pictures = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        if tag == "img":
            self.pictures.append(dict(attributes))
        else:
            self.open.append(tag)
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "td" in self.open or "th" in self.open:
            self.cells[-1] += data


def result(tmp_path, labels, history):
    def paths(name):
        return {c: tmp_path / f"class{c}_{name}" for c in labels}

    return Refinement(
        output=tmp_path, poses=tmp_path / "poses.star", report=tmp_path / "report.html",
        averages=paths("average.mrc"), half_1=paths("half1.mrc"), half_2=paths("half2.mrc"),
        fsc=paths("fsc.csv"), local_resolution=paths("local_resolution.mrc"),
        particles=dict.fromkeys(labels, 8), resolution_143=dict.fromkeys(labels, 23.04),
        resolution_5=dict.fromkeys(labels, float("inf")), set_aside=pd.DataFrame(),
        history=pd.DataFrame(history),
    )  # fmt: skip


def test_a_notebook_gets_one_figure_drawn_again_each_round(notebook):
    view = watch_refinement()
    for number, resolution in ((1, 30.0), (2, 25.0), (3, float("inf"))):
        view.show(row(number, resolution))
    view.close()
    assert [what for what, _ in notebook] == ["display", "update", "update"]
    pictures = [picture for _, picture in notebook]
    assert all(data.startswith(b"\x89PNG") for data, _ in pictures)
    assert len({data for data, _ in pictures}) == 3
    assert "iteration 3: not reached (FSC 0.143)" in pictures[2][1]


def test_elsewhere_a_round_is_a_line(caplog):
    caplog.set_level("INFO", logger=refinement_view.__name__)
    view = watch_refinement()
    view.show(row(1, 30.0, classes=3, reassigned=0.25, local=20.0))
    assert "aligned to 60.0 Å, within 20°; 3 classes, 25 % of particles changed; 3 s" in caplog.text


def test_a_result_shows_itself_as_table_and_curve(tmp_path):
    page = Page(result(tmp_path / "<out>", [1, 3], [row(1, 30.0), row(2, 23.0)])._repr_html_())
    assert page.cells[:5] == ["class", "particles", "FSC 0.143", "FSC 0.5", "average"]
    assert page.cells[10:14] == ["3", "8", "23.0 Å", "not reached"]
    assert page.cells[14] == str(tmp_path / "<out>" / "class3_average.mrc")
    (picture,) = page.pictures
    kind, _, content = picture["src"].partition(";base64,")
    assert kind == "data:image/svg+xml"
    assert b"<svg" in base64.b64decode(content)
    assert picture["alt"].startswith("Resolution by iteration")
