"""What the gateway's tests share."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
import pytest_asyncio

from baton.text import ModelText, load_text
from tests.support.fake_gateway import FakeGateway
from tests.support.gateway_world import World, make_folder, open_world
from tests.support.openai_door import Door, open_door
from tests.support.tokenizers_made import byte_level_tokenizer, write_folder
from tests.support.triton_child import TritonChild
from tests.support.triton_door import TritonDoor, open_triton_door


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the toy model's tokenizer."""
    return make_folder(tmp_path_factory.mktemp("models"))


@pytest.fixture
async def world(model_folder: Path) -> AsyncIterator[World]:
    """A gateway core without workers yet."""
    async with open_world(model_folder) as world:
        yield world


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def module_door(toy_text: ModelText) -> AsyncIterator[Door]:
    """One server for a module's tests, since stopping one takes a moment."""
    async with open_door(FakeGateway(toy_text)) as door:
        yield door


@pytest.fixture
def door(module_door: Door) -> Door:
    """The OpenAI door in front of a gateway that nobody has asked yet."""
    module_door.gateway.reset()
    return module_door


@pytest.fixture(scope="session")
def toy_text(tmp_path_factory: pytest.TempPathFactory) -> ModelText:
    """A byte-level tokenizer with a chat template."""
    return load_text(write_folder(tmp_path_factory.mktemp("text"), byte_level_tokenizer()))


@pytest.fixture(scope="session")
def triton_child() -> Iterator[TritonChild]:
    """One process for all tests: it takes a while to import what it needs."""
    # Not imported here: one interpreter holds one definition of the protocol, and it is ours.
    if find_spec("tritonclient") is None:
        pytest.skip("tritonclient comes with the `dev` extra")
    with TritonChild() as child:
        yield child


@pytest.fixture
async def triton_door(world: World, triton_child: TritonChild) -> AsyncIterator[TritonDoor]:
    """The KServe door, and tritonclient before it."""
    async with open_triton_door(world, triton_child) as door:
        yield door
