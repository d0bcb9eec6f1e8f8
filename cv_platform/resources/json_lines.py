"""Dagster's own lines, and the platform's, as one JSON object each on this process's standard error."""

from __future__ import annotations

import logging
import sys

import dagster as dg
from dagster import _loggers
from dagster._core.utils import coerce_valid_log_level

from cv_platform.structured_logs import JsonFormatter


def write_json_lines() -> None:
    """From now on this process logs so: runs and steps, the platform's clips, and libraries' warnings.

    A run that configures no logger has Dagster's default one, which takes no formatter: it is replaced.
    """
    _loggers.colored_console_logger = json_lines_logger
    root = logging.getLogger()
    if not any(isinstance(handler.formatter, JsonFormatter) for handler in root.handlers):
        root.addHandler(_handler())
    logging.getLogger("cv_platform").setLevel(logging.INFO)
    logging.captureWarnings(True)


@dg.logger(
    config_schema={
        "log_level": dg.Field(str, is_required=False, default_value="INFO"),
        "name": dg.Field(str, is_required=False, default_value="dagster"),
    }
)
def json_lines_logger(init_context: dg.InitLoggerContext) -> logging.Logger:
    """In place of Dagster's coloured console."""
    config = init_context.logger_config
    made = logging.getLoggerClass()(config["name"], level=coerce_valid_log_level(config["log_level"]))
    made.addHandler(_handler())
    return made


def _handler() -> logging.Handler:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    return handler
