"""Training views: random windows of images, cut as bytes on the host, scaled and coloured on the training's device."""
