"""Secrets of the environment are replaced wherever they stand."""

import pytest

from vim_train.config.redact import find_secrets, redact


@pytest.mark.parametrize(
    "name", ["WANDB_API_KEY", "HF_TOKEN", "PGPASSWORD", "MY_PASSWORD", "AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID",
             "GITHUB_TOKEN_2", "SMTP_PASS", "apikey", "APP_SECRETS"],
)  # fmt: skip
def test_secrets_are_known_by_the_variables_name(name: str) -> None:
    assert find_secrets({name: "s3cr3t-value"}) == ["s3cr3t-value"]


@pytest.mark.parametrize(
    "name", ["LANG", "KEYBOARD", "TOKENIZERS_PARALLELISM", "PASSENGERS", "COMPASS", "AWS_WEB_IDENTITY_TOKEN_FILE"]
)
def test_other_variables_are_no_secrets(name: str) -> None:
    assert find_secrets({name: "a-long-value"}) == []


def test_the_longest_comes_first_and_what_is_short_is_left() -> None:
    environ = {"A_KEY": "k" * 8, "B_KEY": "k" * 9, "SHORT_KEY": "abc"}
    assert find_secrets(environ) == ["k" * 9, "k" * 8]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("at https://me:word@host:80/x?a@b", "at https://***@host:80/x?a@b"),
        ("ssh://token@host", "ssh://***@host"),
        ("https://host/a@b and me@host", "https://host/a@b and me@host"),
    ],
)
def test_who_logs_in_is_hidden_in_a_url(text: str, shown: str) -> None:
    assert redact(text, []) == shown


def test_they_are_replaced_inside_containers_and_nothing_else_is() -> None:
    config = {"tags": ["a", "x-s3cr3t-y"], "model": {"class_token": "middle", "depth": 24}, "pair": ("s3cr3t", 1.5)}
    assert redact(config, ["s3cr3t"]) == {
        "tags": ["a", "x-***-y"], "model": {"class_token": "middle", "depth": 24}, "pair": ("***", 1.5),
    }  # fmt: skip
