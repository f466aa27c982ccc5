"""Options that the zoo's commands share."""

import pytest
import typer

from zoo.cli.options import one_line_errors
from zoo.errors import ZooError


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (ZooError("no such file"), 1, "error: no such file"),
        (KeyboardInterrupt("saved in runs"), 130, "interrupted: saved in runs"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
    ids=["error", "Ctrl-C", "Ctrl-C without words"],
)
def test_errors_and_ctrl_c_end_a_command_in_a_line(
    error: BaseException, code: int, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(typer.Exit) as caught, one_line_errors():
        raise error
    assert caught.value.exit_code == code
    assert capsys.readouterr().err.strip() == text
