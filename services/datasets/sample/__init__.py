"""A made-up music catalogue, with listeners and judged queries, for trying the service without any data at hand."""
