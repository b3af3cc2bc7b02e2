from pushtrain.core.text.queries import has_hidden, shown_command, shown_run, shown_view, values
from pushtrain.core.values.jobspec import DataSource
from pushtrain.core.values.run import RunView
from pushtrain.testing import a_command, a_run, a_spec

SIGNED = "https://host/a.csv?X-Amz-Date=20260101&X-Amz-Signature=0123456789abcdef0123#x"


def test_command_is_shown_without_the_queries_of_its_data() -> None:
    plain, signed = DataSource(url="https://host/b", path="b"), DataSource(url=SIGNED, path="data/a")
    command = a_command(job=a_spec(data=(plain, signed)))
    shown = shown_command(command)
    assert [source.url for source in shown.job.data] == ["https://host/b", "https://host/a.csv?*"]
    assert has_hidden(shown)
    assert not has_hidden(command)
    run = a_run(command)
    assert shown_run(run).command == shown_view(RunView(run=run)).run.command == shown
    assert shown_command(shown) == shown


def test_command_without_queries_is_shown_as_it_is() -> None:
    command = a_command(job=a_spec(data=(DataSource(url="https://host/b", path="b"),)))
    assert shown_command(command) is command
    assert values(command) == {}


def test_whole_queries_and_signatures_are_hidden_in_output_and_ordinary_words_are_not() -> None:
    command = a_command(
        job=a_spec(data=(DataSource(url=SIGNED, path="a"), DataSource(url="s3://b/c?d", path="b")))
    )
    assert values(command) == {
        "query of a": "X-Amz-Date=20260101&X-Amz-Signature=0123456789abcdef0123",
        "query of a, 1": "0123456789abcdef0123",
    }
