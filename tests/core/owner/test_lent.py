import pytest

from pushtrain.core.owner.lent import bucket, check_entry, covers


@pytest.mark.parametrize(
    ("entries", "url", "covered"),
    [
        (["s3://lab"], "s3://lab/a.csv", True),
        (["s3://lab/"], "s3://lab/dir/", True),
        (["s3://lab"], "s3://labyrinth/a.csv", False),
        (["s3://lab/public"], "s3://lab/public/x", True),
        (["s3://lab/public"], "s3://lab/public", True),
        (["s3://lab/public"], "s3://lab/publication", False),
        (["s3://lab/public"], "s3://lab/private", False),
        (["s3://lab/public"], "s3://lab/public/../private", False),
        (["s3://lab/public"], "s3://lab/public/%2e%2e/private", False),
        (["s3://lab/public"], "s3://lab/public%2f..%2fprivate", False),
        (["s3://lab/public"], "s3://lab//public/x", False),
        (["s3://lab/public"], "s3://lab/%70ublic/x", True),
        (["s3://"], "s3://any/x", True),
        (["s3://"], "gs://any/x", False),
        (["s3://lab"], "s3://LAB/x", False),
        (["s3://lab"], "s3://lab@evil/x", False),
        (["hf://org"], "hf://org/model@main/x", True),
        (["hf://org/model"], "hf://org/model@v1/dir/x", True),
        (["hf://org/model"], "hf://org/model/x", True),
        (["hf://org/model"], "hf://org/other/x", False),
        (["hf://org/model"], "hf://org/model/../other/x", False),
        (["hf://org"], "hf://datasets/org/name/x", False),
        (["hf://datasets/org"], "hf://datasets/org/name@r/x", True),
        (["hf://datasets/org/name"], "hf://datasets/org/name@r/x", True),
        (["hf://datasets/org/name"], "hf://datasets/org/name2/x", False),
        (["hf://"], "hf://spaces/o/n/x", True),
        ([], "s3://lab/x", False),
        (["s3://lab"], "https://lab/x", False),
    ],
)
def test_credentials_go_where_they_are_lent_and_nowhere_else(
    entries: list[str], url: str, covered: bool
) -> None:
    assert covers(entries, url) is covered


@pytest.mark.parametrize(
    "entry", ["", "lab", "s3:/lab", "https://x", "s3://a/../b", "s3://a//b", "hf://a?b", "s3://*"]
)
def test_entries_that_are_none_are_errors(entry: str) -> None:
    with pytest.raises(ValueError, match="is no place that credentials may go to"):
        check_entry(entry)


def test_entries_are_kept_without_the_slash() -> None:
    assert check_entry("s3://lab/x/") == "s3://lab/x"
    assert check_entry("s3://") == "s3://"


def test_bucket_is_a_name_and_nothing_else() -> None:
    assert bucket("s3://lab-data/a%20b/c") == ("lab-data", "a b/c")
    assert bucket("gs://lab.data") == ("lab.data", "")
    for url in (
        "s3://user@bucket/x",
        "s3://bucket:80/x",
        "s3://127.0.0.1%2f/x",
        "s3://a..b/x",
        "s3:///x",
        "s3://b/../c",
        "s3://b/a?versionId=1",
        "s3://b/a#x",
        "s3://b/a\n",
        "https://b/a",
        "hf://b/a",
        "abfs://c@account.dfs.example/x",
    ):
        with pytest.raises(ValueError, match=r"names no bucket|has a query"):
            bucket(url)
