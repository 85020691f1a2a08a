"""The one reading of a tokenizer's file, whoever made it: bytes, UTF-8 text or JSON, of a bounded size.

A file comes from anywhere, so nothing is taken for granted: it is read up to ``MAX_BYTES``, a symbol is
text that UTF-8 can hold, and the numbers of values and of symbols have a bound, which holds memory and
time down. The largest vocabularies in use have about 260,000 symbols.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple, Optional

from metaseq_plugin.compat.errors import UserError

MAX_BYTES = 64 * 2**20
MAX_SYMBOLS = 500_000
MAX_JSON_VALUES = 6 * MAX_SYMBOLS


class TokenizerFile(NamedTuple):
    """A file of a tokenizer, and the option that named it where one did.

    A sentence about it says "``subject`` must be so, but ``it`` is not".
    """

    path: Path
    option: Optional[str] = None

    @property
    def subject(self) -> str:
        return f"'{self.path}'" if self.option is None else f"`{self.option}`"

    @property
    def it(self) -> str:
        return "it" if self.option is None else f"'{self.path}'"

    def read(self, most: int = MAX_BYTES) -> bytes:
        """Its content; UserError where it cannot be read or has more than ``most`` bytes."""
        try:
            with self.path.open("rb") as stream:
                content = stream.read(most + 1)
        except OSError as error:
            found = "is not" if self.option is None else f"is '{self.path}'"
            raise UserError(
                f"{self.subject} must be a readable file, but {found} ({error.strerror}). "
                "Use the path of the tokenizer's file."
            ) from error
        if len(content) > most:
            raise UserError(
                f"{self.subject} must have at most {most:,} bytes, but {self.it} has more. "
                "Use a tokenizer's file."
            )
        return content

    def text(self, raw: bytes) -> str:
        """Its content ``raw`` as text; UserError where it is not UTF-8."""
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise UserError(
                f"{self.subject} must be UTF-8 text, but {self.it} is not (byte {error.start}). "
                f"Use the tokenizer's {self.path.name}."
            ) from error

    def json(self, raw: bytes) -> Any:
        """What its content ``raw`` says; UserError where it is no JSON, or too much of it."""
        num_values = sum(raw.count(mark) for mark in (b",", b"[", b"{"))
        try:
            if num_values > MAX_JSON_VALUES:
                raise ValueError(f"more than {MAX_JSON_VALUES:,} values")
            return json.loads(raw)
        except (ValueError, RecursionError) as error:  # also of UTF-8, or nested too deep
            raise UserError(
                f"{self.subject} must be a JSON file, but {self.it} is not ({error}). "
                f"Use the tokenizer's {self.path.name}."
            ) from error

    def check_symbol(self, symbol: str) -> None:
        """UserError where ``symbol`` has lone surrogates, which no file and no text can hold."""
        try:
            symbol.encode()
        except UnicodeEncodeError as error:
            raise UserError(
                f"{self.subject} must hold symbols of Unicode text, but {self.it} holds {symbol!r:.80}. "
                "Save it again from the tokenizer."
            ) from error

    def check_num_symbols(self, number: int) -> None:
        """UserError where it has more symbols than any tokenizer."""
        if number > MAX_SYMBOLS:
            raise UserError(
                f"{self.subject} must hold at most {MAX_SYMBOLS:,} symbols, but {self.it} holds "
                f"{number:,}. Use the tokenizer that the model was trained with."
            )
