"""Tiny random encoders of each family."""

from __future__ import annotations

import pytest
import torch
import transformers
from small_encoders import FAMILIES, SMALL
from transformers import AutoModel


@pytest.fixture(scope="session")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A folder with random weights for each family."""
    folders = {}
    for name, (config_name, more) in FAMILIES.items():
        torch.manual_seed(0)
        config = getattr(transformers, config_name)(**{**SMALL, **more})
        folders[name] = str(tmp_path_factory.mktemp(name))
        AutoModel.from_config(config).save_pretrained(folders[name])
    return folders
