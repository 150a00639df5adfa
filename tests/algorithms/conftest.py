"""What all tests of the algorithms share."""

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    """One core, as in a worker: results and times do not depend on the machine's cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
