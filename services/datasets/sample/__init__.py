"""A fictional music catalogue with listeners and judged queries, for trying the service without data of one's own."""
