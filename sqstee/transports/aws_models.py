"""botocore's data files, without the parts about services that nothing here calls.

botocore itself finds a service's model by searching the folders of all its 400 services, and parses and keeps the
endpoints of every one of them: 35 ms, 7,000 system calls and 7 MiB per process.
"""

from __future__ import annotations

import json
import os
import re
from typing import Any

from botocore.loaders import JSONFileLoader, Loader, create_loader
from botocore.session import Session

# By the names that endpoints.json has for them: ours, then those that give credentials.
_NAMES = rb"sqs|s3|monitoring|sts|oidc|portal\.sso"
# In endpoints.json, by indentation: the first and the last line of a partition's services, or one of them as a whole.
_SERVICES = re.compile(
    rb'\n    (?:(?P<first>"services" : \{)|(?P<last>\})|  "(?:%s)" : \{.*?\n      \})' % _NAMES, re.S
)


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
        """The names of all folders: botocore's own method searches each of them for a file of this type."""
        return [name for path in self.search_paths if os.path.isdir(path) for name in os.listdir(path)]


class _DataFiles(JSONFileLoader):
    """Reads JSON files; of the endpoints only those of the services in _NAMES."""

    def load_file(self, file_path: str) -> Any:
        """The content of a file, whose name is without its ending; None if there is none."""
        if os.path.basename(file_path) != "endpoints":
            return super().load_file(file_path)
        try:
            with open(f"{file_path}.json", "rb") as file:
                text = file.read()
        except FileNotFoundError:
            return super().load_file(file_path)
        try:
            return json.loads(without_other_services(text))
        except ValueError:  # another layout
            return json.loads(text)


def without_other_services(text: bytes) -> bytes:
    """The text of endpoints.json with the services in _NAMES alone.

    A text in another layout is returned as it is, or so cut that it is no JSON.
    """
    kept, end = [], 0
    services: list[bytes] | None = None
    for found in _SERVICES.finditer(text):
        if found["first"]:
            services = []
            kept.append(text[end : found.start()])
        elif services is not None and found["last"]:
            kept.append(b'"services": {%s}' % b",".join(services))
            services, end = None, found.end()
        elif services is not None:
            services.append(found[0])
    return b"".join((*kept, text[end:]))
