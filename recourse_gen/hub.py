"""Generators on the Hugging Face Hub: the mixin of `huggingface_hub`, over this package's own folders."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any, Self

from huggingface_hub import ModelCard, ModelHubMixin, snapshot_download

from recourse_gen import card, checkpoint


class Shareable(ModelHubMixin, library_name="recourse-gen", tags=["algorithmic-recourse", "tabular"]):
    """`save_pretrained`, `from_pretrained` and `push_to_hub`, as `huggingface_hub.ModelHubMixin` promises them.

    The folder is that of ``save``, without the classifier, and with a model card: README.md.
    """

    def __new__(cls, *args: Any, **options: Any) -> Self:
        return object.__new__(cls)  # the mixin would keep the arguments for a config.json; config.yaml has them

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        force_download: bool = False,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        revision: str | None = None,
        classifier: Any = None,
        device: Any = None,
    ) -> Self:
        """``load`` from a folder or, where there is none of that name, from a repository of the Hub.

        classifier, device: as of ``load``. The other options are those of `huggingface_hub.snapshot_download`. Only
        files that ``load`` reads are fetched, and it trusts those of a repository no more than any other.

        Raises ValueError as ``load`` does, and what `huggingface_hub` raises for a repository that cannot be had.
        """
        folder = Path(pretrained_model_name_or_path)
        if folder.is_dir():
            return cls.load(folder, classifier=classifier, device=device)  # type: ignore[attr-defined,no-any-return]
        names = (checkpoint.CONFIG, *checkpoint.LIMITS)
        cached = snapshot_download(
            str(pretrained_model_name_or_path),
            revision=revision,
            cache_dir=cache_dir,
            force_download=force_download,
            token=token,
            local_files_only=local_files_only,
            allow_patterns=list(names),
        )
        with tempfile.TemporaryDirectory() as copies:
            for name in names:  # the cache is made of links out of its folders, which `load` follows for nobody
                if (Path(cached) / name).exists():
                    shutil.copyfile(Path(cached) / name, Path(copies) / name)
            return cls.load(copies, classifier=classifier, device=device)  # type: ignore[attr-defined,no-any-return]

    def generate_model_card(self) -> ModelCard:  # type: ignore[override]
        """Intended use, limits, data, constraints, training and measures, with the Hub's metadata.

        Raises ValueError if the generator is not fitted.
        """
        about = self._hub_mixin_info.model_card_data
        return ModelCard(f"---\n{about.to_yaml()}\n---\n\n{card.markdown(self)}")  # type: ignore[arg-type]

    def _save_pretrained(self, save_directory: Path) -> None:
        self.save(save_directory)  # type: ignore[attr-defined]
