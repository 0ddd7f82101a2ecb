"""The embedded text-to-image model, and the classifiers of its pictures (`judges`)."""
