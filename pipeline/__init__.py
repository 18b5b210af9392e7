"""The engine of Mirrorline: data, models, training, monitoring and evaluation behind one configuration."""
