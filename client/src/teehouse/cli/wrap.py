# SPDX-License-Identifier: Apache-2.0
"""Streaming text to a terminal in whole words: a terminal by itself breaks lines inside words."""

from __future__ import annotations

from collections.abc import Callable

from rich.cells import cell_len

__all__ = ["WordWrap"]


class WordWrap:
    """Feed it pieces of text; it writes words and line breaks, and holds back only the word that is still growing."""

    def __init__(self, write: Callable[[str], None], width: int) -> None:
        self._write = write
        self._width = max(10, width - 1)
        self._column = 0  # cells written on this line
        self._gap = ""  # blanks before the next word
        self._word = ""

    def feed(self, text: str) -> None:
        """Take text as it comes."""
        for character in text:
            if character == "\n":
                self._put()
                self._write("\n")
                self._column, self._gap = 0, ""
            elif character.isspace():
                self._put()
                self._gap += " "
            else:
                self._word += character
                if cell_len(self._word) >= self._width:  # no word; a line of dashes, or a language without blanks
                    self._put()

    def end(self) -> None:
        """The text is whole; ends the line."""
        self._put()
        self._write("\n")
        self._column, self._gap = 0, ""

    def _put(self) -> None:
        if not self._word:
            return
        size = cell_len(self._word)
        if self._column and self._column + len(self._gap) + size > self._width:
            self._write("\n")
            self._column, self._gap = 0, ""
        self._write(self._gap + self._word)
        self._column += len(self._gap) + size
        self._gap = self._word = ""
