mod tiny;
