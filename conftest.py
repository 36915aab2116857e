"""`pytest --benchmark` runs the benchmarks of bench/; without it, they are collected by nobody and timed never."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--benchmark", action="store_true", help="run bench/ with pytest-benchmark, and not the tests")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    if not config.getoption("--benchmark"):
        return
    # pyproject.toml disables benchmarks for plain runs, the plugin's own way of keeping them out of the tests.
    config.option.benchmark_disable = False
    config.option.benchmark_enable = True
    if config.args_source is not pytest.Config.ArgsSource.ARGS:
        config.args = [str(config.rootpath / "bench")]
