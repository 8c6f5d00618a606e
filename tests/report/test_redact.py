"""Secrets of the environment are replaced wherever they stand."""

from vim_train.report.redact import find_secrets, redact


def test_secrets_are_known_by_the_variables_name() -> None:
    environ = {
        "WANDB_API_KEY": "k" * 40, "HF_TOKEN": "t" * 20, "DB_PASSWORD": "hunter2hunter2", "LANG": "en_GB.UTF-8",
        "SHORT_KEY": "abc", "KEYBOARD": "a-long-layout-name",
    }  # fmt: skip
    assert find_secrets(environ) == ["k" * 40, "t" * 20, "hunter2hunter2"]


def test_they_are_replaced_inside_containers_and_nothing_else_is() -> None:
    config = {"tags": ["a", "x-s3cr3t-y"], "model": {"class_token": "middle", "depth": 24}, "pair": ("s3cr3t", 1.5)}
    assert redact(config, ["s3cr3t"]) == {
        "tags": ["a", "x-***-y"], "model": {"class_token": "middle", "depth": 24}, "pair": ("***", 1.5),
    }  # fmt: skip
