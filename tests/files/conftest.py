from tests.builders.locations import bucket_run as bucket_run
from tests.builders.locations import disk as disk
from tests.builders.locations import fault_proxy as fault_proxy
from tests.builders.locations import location as location
from tests.builders.locations import proxy as proxy
from tests.builders.locations import pytest_generate_tests as pytest_generate_tests
from tests.builders.locations import small_uploads as small_uploads
