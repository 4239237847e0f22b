"""What tests of stores read: rows as bytes, which compare NaN equal to itself, and what the log tells."""

import pytest

from hessjax.store import Store


def rows(path):
    """Every array but `done`, whose length is the number of units."""
    store = Store.open(path)
    return {name: store.read(name).tobytes() for name in sorted({*store.by_row, store.rows, "step"})}


def units_done(path):
    """Units in the order in which the log says that they were written."""
    return [e["unit"] for e in Store.open(path).events() if e["event"] == "unit"]


def interrupted(monkeypatch, unit, call):
    """Ctrl-C when that unit would be written, in what `call` does."""
    write = Store.write

    def write_or_stop(self, number, values):
        if number == unit:
            raise KeyboardInterrupt
        write(self, number, values)

    with monkeypatch.context() as during:
        during.setattr(Store, "write", write_or_stop)
        with pytest.raises(KeyboardInterrupt):
            call()
