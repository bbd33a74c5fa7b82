"""botocore's data files, without those of the services that nothing here calls.

botocore finds a service's model by looking for it in the folders of all its 400 services, and keeps the endpoints of
each of them in memory: 25 ms, 8,000 system calls and 4 MiB per process.
"""

from __future__ import annotations

import json
import os
from typing import Any

from botocore.loaders import JSONFileLoader, Loader, create_loader
from botocore.session import Session

# By the names that endpoints.json has for them: ours, then those that give credentials.
_SERVICES = ("sqs", "s3", "monitoring", "sts", "oidc", "portal.sso")


def use_own_models(session: Session) -> None:
    """Make a session load its data files by our loader, from the folders that botocore would use (AWS_DATA_PATH)."""
    paths = create_loader(session.get_config_variable("data_path")).search_paths
    session.register_component(
        "data_loader",
        ServiceModels(extra_search_paths=paths, file_loader=_DataFiles(), include_default_search_paths=False),
    )


class ServiceModels(Loader):
    """botocore's loader, which takes each folder for a service that has every type of file."""

    def list_available_services(self, type_name: str) -> list[str]:
        """The names of all folders: botocore's own method looks into each of them for a file of this type."""
        return [name for path in self.search_paths if os.path.isdir(path) for name in os.listdir(path)]


class _DataFiles(JSONFileLoader):
    """Reads JSON files; of the endpoints only those of _SERVICES."""

    def load_file(self, file_path: str) -> Any:
        """The content of a file, whose name is without its ending; None if there is none."""
        if os.path.basename(file_path) != "endpoints":
            return super().load_file(file_path)
        try:
            with open(f"{file_path}.json", "rb") as file:
                found = json.load(file)  # plain dicts: botocore's ordered ones take twice the time and memory
        except FileNotFoundError:
            return super().load_file(file_path)
        for partition in found["partitions"]:
            services = partition["services"]
            partition["services"] = {name: services[name] for name in _SERVICES if name in services}
        return found
