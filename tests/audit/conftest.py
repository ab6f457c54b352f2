from tests.viewer.conftest import chromium, open_page  # noqa: F401 # fixtures
