"""Real answers of a shipped model for /docs, tested against the running service: of bag.png, most of them."""

from typing import Any

PREDICT_RESPONSE: dict[str, Any] = {
    "predictions": [
        {
            "filename": "bag.png",
            "model": {
                "name": "fashion-mnist",
                "version": 1,
                "digest": "88ca3c9d3c04747a8a3c1d3243047e94578600fdc75756a5ab4ca9341c811e3e",
            },
            "label": "Bag",
            "group": "bags",
            "probability": 0.9899080991744995,
            "decision": "sorted",
            "reason": "Most probably Bag, with a probability of 99.0%.",
            "prediction_set": None,
            "garment_score": None,
            "top_k": [{"label": "Bag", "group": "bags", "probability": 0.9899080991744995}],
            "image": {"format": "PNG", "width": 28, "height": 28, "notes": []},
        },
        {
            "filename": "README.md",
            "error": {
                "type": "urn:wardrobe:unsupported-image-format",
                "title": "The image format is not accepted",
                "status": 415,
                "detail": "The file is not an image of an accepted format. "
                "Send one of JPEG, PNG, WEBP, GIF, BMP, TIFF, AVIF, HEIF.",
                "instance": "urn:wardrobe:request:ce0de6746dce4e6cac1ca95f8f7b7a31",
                "accepted": ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF"],
            },
        },
    ],
}

ITEM: dict[str, Any] = {
    "id": "d1cb535c544652bb98b8d01d25300a6de6750821d6c60601be0f3633ad7cdf20",
    "revision": 2,
    "filename": "bag.png",
    "added_at": "2026-11-25T13:49:34.233325Z",
    "changed_at": "2026-11-25T13:50:02.120000Z",
    "num_bytes": 448,
    "drawer": "bags",
    "label": "handbag",
    "corrected": True,
    "prediction": {key: value for key, value in PREDICT_RESPONSE["predictions"][0].items() if key != "filename"},
    "corrections": [
        {
            "id": "4d1fff69-643e-458a-9ec2-df908f729f7d",
            "label": "handbag",
            "drawer": "bags",
            "made_at": "2026-11-25T13:50:02.120000Z",
            "taken_back_at": None,
        }
    ],
    "possible_duplicate_of": None,
    "urls": {
        "picture": "/items/d1cb535c544652bb98b8d01d25300a6de6750821d6c60601be0f3633ad7cdf20/picture",
        "thumbnail": "/items/d1cb535c544652bb98b8d01d25300a6de6750821d6c60601be0f3633ad7cdf20/thumbnail",
        "input": "/items/d1cb535c544652bb98b8d01d25300a6de6750821d6c60601be0f3633ad7cdf20/input",
        "explanation": "/items/d1cb535c544652bb98b8d01d25300a6de6750821d6c60601be0f3633ad7cdf20/explanation",
        "similar": "/items/d1cb535c544652bb98b8d01d25300a6de6750821d6c60601be0f3633ad7cdf20/similar",
    },
}

IMAGE_CLASSIFICATION: list[dict[str, Any]] = [
    {"label": "Bag", "score": 0.9899080991744995},
    {"label": "T-shirt/top", "score": 0.0014669093070551753},
]

INFER_ANSWER: dict[str, Any] = {
    "model_name": "fashion-mnist",
    "model_version": "1",
    "id": "42",
    "outputs": [
        {"name": "label", "datatype": "BYTES", "shape": [1, 1], "data": ["Bag"]},
        {"name": "decision", "datatype": "BYTES", "shape": [1, 1], "data": ["sorted"]},
        {
            "name": "probabilities",
            "datatype": "BYTES",
            "shape": [1, 2],
            "data": ["0.989908:8:Bag", "0.001467:0:T-shirt/top"],
        },
    ],
}
