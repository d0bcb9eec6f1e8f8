"""cv_platform: clips in; detections, tracks, face-blurred clips and analysts' tables out."""
