# Ray with distcorr installed, for cluster.yaml and rayjob.yaml:
#     docker build -t YOUR_REGISTRY/distcorr:latest . && docker push YOUR_REGISTRY/distcorr:latest
# The tag names the Ray version of constraints.txt and the Python that it was made with.
FROM rayproject/ray:2.60.0-py311-gpu

WORKDIR /home/ray/distcorr
COPY --chown=ray:users pyproject.toml constraints.txt README.md ./
COPY --chown=ray:users distcorr ./distcorr
COPY --chown=ray:users jobs ./jobs
# Not editable: workers import the package from site-packages, wherever a job's folder is.
RUN pip install --no-cache-dir --constraint constraints.txt ".[demo]"
# Fails here and not on the cluster if the package or its command is not whole.
RUN distcorr --help > /dev/null
