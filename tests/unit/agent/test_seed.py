"""What cloud-init finds on a seed disk."""

import pytest
import yaml
from builders import UID
from seed_files import seed_files

from kubeferry.agent.storage.seed import seed_image
from kubeferry.api.domain import CloudInitSeed
from kubeferry.core.domain import SEED_BYTES

LONGEST = "\U0001f680" * 65536
"""The API counts characters, a file system bytes."""


def seed(**words: str) -> CloudInitSeed:
    return CloudInitSeed(**{"local_hostname": "web-0", "user_data": "#cloud-config\n"} | words)


def test_the_files_have_cloud_inits_names_and_the_words_as_they_were_written() -> None:
    words = "#cloud-config\nruncmd:\n- echo 漢字 é > /dev/ttyS0\n"
    files = seed_files(seed_image(seed(user_data=words, network_data="version: 2\n"), UID))
    assert files == {
        "user-data": words,
        "meta-data": f"instance-id: {UID}\nlocal-hostname: web-0\n",
        "network-config": "version: 2\n",
    }


def test_without_network_data_cloud_init_finds_no_file_of_it() -> None:
    assert seed_files(seed_image(seed(), UID)).keys() == {"user-data", "meta-data"}


def test_cloud_init_finds_user_data_that_has_no_words() -> None:
    assert seed_files(seed_image(seed(user_data=""), UID))["user-data"] == ""


@pytest.mark.parametrize("name", ["123", "1e3", "null", "on", "2026-01-01", "a.b"])
def test_a_host_name_stays_text(name: str) -> None:
    files = seed_files(seed_image(seed(local_hostname=name), "1" * 36))
    assert yaml.safe_load(files["meta-data"]) == {"instance-id": "1" * 36, "local-hostname": name}


def test_the_longest_words_that_the_api_takes_have_room() -> None:
    image = seed_image(seed(user_data=LONGEST, network_data=LONGEST[:16384]), UID)
    assert len(image) <= SEED_BYTES
    assert seed_files(image)["user-data"] == LONGEST
