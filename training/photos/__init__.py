"""The `wardrobe` model: from photos of clothes, any user's own, to an artefact that sorts them."""
