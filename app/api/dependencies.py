"""One provider and one alias for each thing that routes need; tests replace the provider.

Coroutines, though they wait for nothing: FastAPI hands each provider that is none to a thread, and waits for it.
"""

from typing import Annotated

from fastapi import Depends, Query, Request

from app.api.schemas import Absent
from app.artifact import Drawer
from app.embedder import Embedder
from app.inference.predictor import Predictor
from app.inference.store import ModelStore
from app.metrics import Metrics
from app.settings import Settings
from app.store.wardrobe import Filter, Wardrobe


async def get_settings(request: Request) -> Settings:
    settings: Settings = request.app.state.settings
    return settings


async def get_store(request: Request) -> ModelStore:
    store: ModelStore = request.app.state.store
    return store


async def get_predictor(request: Request) -> Predictor:
    predictor: Predictor = request.app.state.predictor
    return predictor


async def get_wardrobe(request: Request) -> Wardrobe:
    wardrobe: Wardrobe = request.app.state.wardrobe
    return wardrobe


async def get_embedder(request: Request) -> Embedder:
    embedder: Embedder = request.app.state.embedder
    return embedder


async def get_metrics(request: Request) -> Metrics:
    metrics: Metrics = request.app.state.metrics
    return metrics


SettingsDependency = Annotated[Settings, Depends(get_settings)]
StoreDependency = Annotated[ModelStore, Depends(get_store)]
PredictorDependency = Annotated[Predictor, Depends(get_predictor)]
MetricsDependency = Annotated[Metrics, Depends(get_metrics)]
EmbedderDependency = Annotated[Embedder, Depends(get_embedder)]
WardrobeDependency = Annotated[Wardrobe, Depends(get_wardrobe)]


def chosen_items(
    drawer: Annotated[tuple[Drawer, ...], Query(description="One or many.", max_length=16)] = (),
    label: Annotated[tuple[str, ...], Query(description="One or many.", max_length=100)] = (),
    corrected: Annotated[bool | Absent, Query(description="Whether a correction stands.")] = None,
    q: Annotated[
        str, Query(max_length=200, description="Words that are all in file name, label or drawer, in any case.")
    ] = "",
    possible_duplicate: Annotated[
        bool | Absent, Query(description="Whether it looks much like another one, and nobody said what to do.")
    ] = None,
) -> Filter:
    labels, words = [text.replace("\x00", "") for text in label], q.replace("\x00", "").split()
    return Filter(drawer, labels, corrected, words, possible_duplicate)


FilterDependency = Annotated[Filter, Depends(chosen_items)]
