"""Edge protocols: RTSP, HTTP with keys and limits, Kafka and Kinesis in and out, gRPC, WebRTC. Not built yet."""
