"""Words, files and standard input are told apart, and what cannot be read is named."""

import io
import sys

import pytest

from probe import InputError
from probe.dashboard.source import read_source


def given(monkeypatch, data):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


@pytest.mark.parametrize(
    "text",
    [
        "A film.",
        "and / or",
        "either/or is fine here",
        "see notes.txt for more",
        "it ended…",
        "C:",
        "日本語",
        "a\nb/c.txt x",
        "x" * 100_000,
    ],
)
def test_words_are_words(text):
    assert read_source(text) == text


def test_an_existing_path_is_a_file(tmp_path, monkeypatch):
    (tmp_path / "plain").write_text("from the file", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert read_source("plain") == "from the file"


def test_a_byte_order_mark_is_left_out(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfhello")
    assert read_source(str(tmp_path / "a.txt")) == "hello"


def test_standard_input_is_read_whole(monkeypatch):
    given(monkeypatch, "naïve\ntext\n".encode())
    assert read_source("-") == "naïve\ntext\n"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.bin", b"\x7fELF\0\0", r"a\.bin is binary \(it holds a zero byte\)"),
        ("a.txt", b"caf\xe9 au lait", r"a\.txt is not text in UTF-8 \(byte 3\)"),
        ("a.md", b" \n\t", r"a\.md is empty"),
        ("a.png", b"\x89PNG", r"a\.png is an image; supported now: text"),
    ],
)
def test_files_that_are_no_text(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_source(str(tmp_path / name))


@pytest.mark.parametrize("source", ["no/such", "./x", "review.txt", "my review.txt", "photo.JPG", "~/x"])
def test_what_looks_like_a_path_must_exist(source):
    with pytest.raises(InputError, match="no such file"):
        read_source(source)


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(InputError, match="is a folder, expected a text file"):
        read_source(str(tmp_path))


@pytest.mark.parametrize("source", ["", "  \n", "-"])
def test_nothing_is_refused(monkeypatch, source):
    given(monkeypatch, b"\n")
    with pytest.raises(InputError, match="is empty: give at least one word"):
        read_source(source)
