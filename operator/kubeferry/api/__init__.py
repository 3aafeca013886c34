"""The API of kubeferry: models of the custom resources, their names, reasons and conditions. Imports no I/O."""
