"""Entry points: `kubeferry controller` and `kubeferry agent`."""
