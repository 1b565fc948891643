import QubesLab

LabProgram.main()
