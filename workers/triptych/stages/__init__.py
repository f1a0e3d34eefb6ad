"""Stage workers: engine and transfer behind one StageService endpoint.

Three threads divide a decoder worker's work, and each owns what it touches::

    event loop      gRPC: commands in, events out            service.py
    compute thread  scheduler, jobs, the model               compute.py, decoder_stage.py
    transfer        KV and embeddings, fences                triptych.transfer

They talk by messages: a command or a finished transfer is posted to the compute thread's inbox and handled between
two steps, so no lock guards the scheduler.
"""
