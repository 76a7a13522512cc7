"""The catalogue of experiments: the opening comments of experiments/configs/*.cfg as a table.

A config is a file of flags (`--flagfile`) that opens with

  # Title: the table or figure that it reproduces
  # Paper: its place in a paper
  # Command: the exact command
  # Time: the expected time
  # Score: the expected score
  #
  # | what | published | measured (stand-in) | not run (needs) |
  # |---|---|---|---|
  # | ... | ... | ... | ... |

  python experiments/catalogue.py                                  # prints it
  python experiments/catalogue.py --readme=experiments/README.md   # writes it between the marks of that file

Expected: a second.
"""

import dataclasses
import pathlib

import tables
from absl import flags

from spex_jax.runtime import run_program

_README = flags.DEFINE_string("readme", None, "File in which the table is replaced.")

FOLDER = pathlib.Path(__file__).parent / "configs"
FIELDS = ("Title", "Paper", "Command", "Time", "Score")
COLUMNS = ("what", "published", "measured (stand-in)", "not run (needs)")
MARKS = ("<!-- catalogue -->", "<!-- end of catalogue -->")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Holds the fields and the rows {column: text} of a config's opening comments, and its other lines."""

    name: str
    fields: dict[str, str]
    rows: list[dict[str, str]]
    flags: list[str]


def read(path: pathlib.Path) -> Config:
    """Reads a config.

    Raises:
      ValueError: it does not open as described above.
    """
    lines = path.read_text(encoding="utf-8").splitlines()
    comments = [line.removeprefix("#").strip() for line in lines if line.startswith("#")]
    fields = dict(zip(FIELDS, [line.partition(": ")[2] for line in comments], strict=False))
    for place, field in enumerate(FIELDS):
        if len(comments) <= place or not comments[place].startswith(f"{field}: ") or not fields[field]:
            raise ValueError(f"line {place + 1} of {path.name} must be '# {field}: ...'")
    table = [
        [cell.strip() for cell in line.strip("|").replace("\\|", "\0").split("|")]
        for line in comments
        if line.startswith("|")
    ]
    if len(table) < 3 or tuple(table[0]) != COLUMNS:
        raise ValueError(f"{path.name} must have a table with the columns {', '.join(COLUMNS)} and at least one row")
    rows = [dict(zip(COLUMNS, (cell.replace("\0", "|") for cell in row), strict=True)) for row in table[2:]]
    rest = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    return Config(name=path.stem, fields=fields, rows=rows, flags=rest)


def catalogue() -> str:
    """Returns a Markdown table with a row for each config."""
    configs = [read(path) for path in sorted(FOLDER.glob("*.cfg"))]
    needed = [[row[COLUMNS[3]] for row in config.rows if row[COLUMNS[3]] not in ("", "-")] for config in configs]
    return tables.markdown(
        [
            {
                "config": f"[{config.name}](configs/{config.name}.cfg)",
                "what": config.fields["Title"],
                "command": f"`{config.fields['Command']}`",
                "time": config.fields["Time"],
                "score": config.fields["Score"],
                "not run": "; ".join(dict.fromkeys(needs)),
            }
            for config, needs in zip(configs, needed, strict=True)
        ]
    )


def main() -> None:
    """Prints the catalogue or writes it into a file."""
    text = catalogue()
    if _README.value:
        tables.write_between(_README.value, MARKS, text)
    else:
        print(text)


if __name__ == "__main__":
    run_program(main)
