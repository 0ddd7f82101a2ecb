"""Files: concept LoRAs, LoRAs made elsewhere, and prompt lists."""
