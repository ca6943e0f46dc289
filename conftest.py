"""With --listed-skips-only a run fails when a test was skipped for a reason not listed here.

A test that is quietly skipped everywhere tests nothing. Those that need what an ordinary machine
cannot have are listed here, by how their skip reason begins.
"""

LISTED_SKIPS = {
    'needs habitat-sim': 'conda package, not on the package index',
    'needs a Python 3.9': 'the environment server is tested under ours where there is none',
    'habitat-sim is installed': 'how its absence is reported can only be seen where it is absent',
    'needs a GPU': 'CPU-only machines run the tests too',
    'needs an ament installation': 'launch and tf2 come with ROS 2 from apt only',
}


def pytest_addoption(parser):
    parser.addoption('--listed-skips-only', action='store_true',
                     help='fail when a test is skipped for a reason not listed in conftest.py')


def _reason(report):
    text = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return text.removeprefix('Skipped: ')


def _unlisted(config):
    reporter = config.pluginmanager.get_plugin('terminalreporter')
    skipped = reporter.stats.get('skipped', []) if reporter else []
    return [(report.nodeid, _reason(report)) for report in skipped
            if not _reason(report).startswith(tuple(LISTED_SKIPS))]


def pytest_sessionfinish(session, exitstatus):
    if session.config.getoption('listed_skips_only') and exitstatus == 0:
        if _unlisted(session.config):
            session.exitstatus = 1


def pytest_terminal_summary(terminalreporter, config):
    if config.getoption('listed_skips_only'):
        for node, reason in _unlisted(config):
            terminalreporter.write_line(f'SKIPPED BUT NOT LISTED {node}: {reason}', red=True)
